# shellcheck shell=bash
# What the scripts share: packages, the choice of a PostgreSQL, private servers. Sourcing it enters the checkout.
#
# A private server has its data, log and socket in one folder, which nobody but its user may enter, and listens on that socket alone.
# Its user is the caller, or `postgres` if the caller is root, as whom PostgreSQL does not run. No other server of the machine is touched.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
top=$(pwd -P)
for name in "${!PG@}"; do
    [ "$name" = PG_CONFIG ] || unset "$name"
done
export LANG=C.UTF-8 LC_ALL=C.UTF-8    # the TAP tests drop LC_ALL
umask 022
. scripts/packages

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

as_root() {
    if [ "$EUID" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "this needs root, or sudo: $*"
    fi
}

# as_server COMMAND...: as the server's user, in a folder that it can enter.
as_server() (
    cd /
    if [ "$EUID" = 0 ]; then
        exec setpriv --reuid=postgres --regid=postgres --init-groups env HOME=/ "$@"
    else
        exec "$@"
    fi
)

# ensure_packages NAME...: asks apt only for what is missing.
ensure_packages() {
    local name missing=() output
    for name; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
    done
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null || die "please install what Debian calls: ${missing[*]}"
    echo "installing ${missing[*]}"
    output=$(as_root apt-get update -qq 2>&1 && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qy --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" </dev/null 2>&1) || die "$output"
}

# The version of PostgreSQL that apt would install.
candidate_version() {
    apt-cache policy postgresql 2>/dev/null | sed -n 's/^ *Candidate: \([0-9]*\).*/\1/p'
}

# Sets and exports PG_CONFIG, unless the caller has: the newest server of the machine that can be built for, else the distribution's, which
# gets installed. Sets bindir and pgxs_dir.
choose_postgres() {
    local version
    if [ -z "${PG_CONFIG:-}" ]; then
        version=$({ find /usr/lib/postgresql -path '*/bin/pg_config' 2>/dev/null || true; } | cut -d/ -f5 | sort -n | tail -n 1)
        version=${version:-$(candidate_version)}
        if [ -z "$version" ]; then
            as_root apt-get update -qq
            version=$(candidate_version)
        fi
        [ -n "$version" ] || die "found no PostgreSQL: set PG_CONFIG to its pg_config"
        # shellcheck disable=SC2086
        ensure_packages ${packages_server//%V/$version}
        PG_CONFIG=/usr/lib/postgresql/$version/bin/pg_config
    fi
    export PG_CONFIG
    bindir=$("$PG_CONFIG" --bindir)
    # shellcheck disable=SC2034
    pgxs_dir=$(dirname "$("$PG_CONFIG" --pgxs)")/../..
    [ "$EUID" != 0 ] || id postgres >/dev/null 2>&1 || useradd --system --user-group postgres
}

# install_extension COMPILER-OPTIONS: builds the extension afresh, and installs it into that PostgreSQL.
install_extension() {
    local root=as_root
    [ ! -w "$("$PG_CONFIG" --pkglibdir)" ] || root=
    make -s clean && make -s -j"$(nproc)" COPT="$1" && $root make -s install PG_CONFIG="$PG_CONFIG"
}

# server_folder NAME: prints the path of the server's folder NAME in the checkout, and makes it if need be. Where the server's user cannot
# enter the checkout (one in /root), or a socket's path would be too long there (107 bytes), NAME links to a folder in /var/tmp.
server_folder() {
    local LC_ALL=C folder=$top/$1
    mkdir -p "$(dirname "$folder")"
    if [ ! -e "$folder" ]; then
        rm -f "$folder"
        if [ ${#folder} -le 90 ] && as_server test -x "$(dirname "$folder")"; then
            mkdir -m 700 "$folder"
        else
            ln -s "$(mktemp -d /var/tmp/apikeys.XXXXXX)" "$folder"
            echo "the server's folder $1 is $(readlink "$folder")" >&2
        fi
        [ "$EUID" != 0 ] || chown postgres: "$folder/"
    fi
    folder=$(readlink -f "$folder")
    as_server test -w "$folder" || die "$folder belongs to somebody else"
    echo "$folder"
}

# server_make FOLDER SETTINGS: a new, empty server with these further lines of postgresql.conf. Its superuser is postgres.
server_make() {
    as_server rm -rf "$1/data.new"
    as_server "$bindir/initdb" -D "$1/data.new" -U postgres -A trust -E UTF8 --locale=C.UTF-8 -N >/dev/null
    as_server tee -a "$1/data.new/postgresql.conf" >/dev/null <<EOF
listen_addresses = ''
unix_socket_directories = '$1'
$2
EOF
    as_server mv "$1/data.new" "$1/data"    # at once: what an interruption leaves is no server that listens elsewhere
}

# server_start FOLDER [pg_ctl's options]
server_start() {
    local folder=$1
    shift
    as_server "$bindir/pg_ctl" -D "$folder/data" -l "$folder/log" -s -w "$@" start </dev/null >/dev/null ||
        { as_server tail -n 20 "$folder/log" >&2; die "the server does not start: see $folder/log"; }
}

# server_stop FOLDER: stops every server whose data lies in it. A pid file that outlived its server may name anything: it is believed
# only if that process works in the data folder.
server_stop() {
    local pid_file data
    while IFS= read -r pid_file; do
        data=$(dirname "$pid_file")
        as_server test "/proc/$(as_server head -n 1 "$pid_file")/cwd" -ef "$data" || continue
        as_server "$bindir/pg_ctl" -D "$data" -s -w -t 30 -m fast stop || as_server "$bindir/pg_ctl" -D "$data" -s -w -m immediate stop
    done < <(find "$1/" -name postmaster.pid 2>/dev/null)
}
