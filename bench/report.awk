# Makes the table and the JSON (to the file named by the variable json) of bench/run's records, separated by tabs:
#   variant NAME UNIT COMPARED              in the order of the table
#   measured ROUND NAME CLIENTS FIGURE [CLIENT-US SERVER-US WRITER-US]    clients 0: a figure that is no rate
#   about NAME VALUE                        what the figures were measured on
# A ratio is the median of the rounds' own ratios.
BEGIN { FS = "\t" }
$1 == "about" { about[++abouts] = $2; value[$2] = $3 }
$1 == "variant" { order[++variants] = $2; unit[$2] = $3; compared[$2] = $4 }
$1 == "measured" {
    if (!(($3, $4) in rounds)) points[$3] = points[$3] " " $4
    rounds[$3, $4] = rounds[$3, $4] " " $2
    figure[$3, $4, $2] = $5
    for (i = 6; i <= NF; i++) cpu[$3, $4, i - 5, $2] = $i
}

function median(list,    v, n, i, j, t) {
    n = split(list, v, " ")
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && v[j] + 0 < v[j - 1] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
    return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
}

function median_figure(name, clients,    v, n, i, list) {
    n = split(rounds[name, clients], v, " ")
    for (i = 1; i <= n; i++) list = list " " figure[name, clients, v[i]]
    return median(list)
}

function median_cpu(name, clients, part,    v, n, i, list) {
    n = split(rounds[name, clients], v, " ")
    for (i = 1; i <= n; i++)
        if ((name, clients, part, v[i]) in cpu) list = list " " cpu[name, clients, part, v[i]]
    return list == "" ? "" : sprintf("%.1f", median(list))
}

function median_ratio(name, other, clients,    v, n, i, list) {
    n = split(rounds[name, clients], v, " ")
    for (i = 1; i <= n; i++)
        if (figure[other, clients, v[i]] > 0) list = list " " figure[name, clients, v[i]] / figure[other, clients, v[i]]
    return list == "" ? "" : median(list)
}

function short(x) { return x >= 100 ? sprintf("%d", x) : sprintf("%.2f", x) }

# Where the CPU goes while verify runs at 8 clients.
function print_shares(    part, sum, i, rate) {
    rate = median_figure("verify", 8)
    for (i = 1; i <= 3; i++) sum += part[i] = median_cpu("verify", 8, i)
    if (part[3] == 0) return
    for (i = 1; i <= 3; i++) part[i + 3] = part[i] / sum * 100 + 0.5
    printf "\nverify, 8 clients: %d %% of the CPU go to the clients, %d %% to the backends, %d %% to the writer, which writes %d requests\n", \
        part[4], part[5], part[6], 1e6 / part[3]
    printf "in a second of its CPU, and uses %d %% of a core for %d a second.\n", rate * part[3] / 1e4 + 0.5, rate
    printf ",\n\"verify_cpu\": {\"clients\": %d, \"server\": %d, \"writer\": %d, \"writer_requests_a_cpu_second\": %d, \"writer_share_of_core\": %.2f}", \
        part[4], part[5], part[6], 1e6 / part[3], rate * part[3] / 1e6 >json
}

function quoted(text) { gsub(/[\\"]/, "\\\\&", text); return "\"" text "\"" }

function or_null(x) { return x == "" ? "null" : x }

# The line of one ratio, or of a variant that is compared with nothing.
function row(name, clients, repeated, ratio, other, op, target, stretch,    met, rate, i, part) {
    rate = median_figure(name, clients)
    met = target == "" || ratio == "" ? "" : op == ">=" ? (ratio >= target ? "yes" : "NO") : (ratio <= target ? "yes" : "NO")
    for (i = 1; i <= 3; i++) part[i] = median_cpu(name, clients, i)
    printf "| %-15s | %7s | %9s | %6s | %6s | %6s | %7s | %-15s | %-8s | %-3s |\n", repeated ? "" : name, repeated || !clients ? "" : clients, \
        repeated ? "" : short(rate) (clients ? "" : " " unit[name]), repeated ? "" : part[1], repeated ? "" : part[2], repeated ? "" : part[3], \
        ratio == "" || other == "" ? "" : sprintf("%.2f", ratio), other == "" ? "" : "/ " other, \
        target == "" ? "" : op " " target (stretch == "" ? "" : "," stretch), met
    printf "%s\n    {\"variant\": %s, \"clients\": %s, \"figure\": %s, \"unit\": %s, \"client_us\": %s, \"server_us\": %s, \"writer_us\": %s, \"compared_with\": %s, \"ratio\": %s, \"target\": %s, \"stretch\": %s, \"met\": %s}", \
        separator, quoted(name), or_null(clients ? clients : ""), rate, quoted(unit[name]), or_null(part[1]), or_null(part[2]), or_null(part[3]), \
        other == "" ? "null" : quoted(other), other == "" ? "null" : or_null(ratio), target == "" ? "null" : quoted(op " " target), or_null(stretch), \
        met == "" ? "null" : met == "yes" ? "true" : "false" >json
    separator = ","
}

# The lines of a variant at a number of clients.
function rows(name, clients,    word, words, w, parts, other, at, op, goal, lines, ratio) {
    words = split(compared[name], word, " ")
    for (w = 1; w <= words; w++) {
        op = match(word[w], /[<>]=/) ? substr(word[w], RSTART, 2) : ""
        split(op == "" ? word[w] : substr(word[w], 1, RSTART - 1), parts, "@")
        other = parts[1]
        at = other == "" ? 0 : parts[2] == "" ? 8 : parts[2]
        delete goal
        if (op != "") split(substr(word[w], RSTART + 2), goal, ",")
        ratio = other == "" ? median_figure(name, clients) : median_ratio(name, other, clients)
        if (ratio == "") continue
        if (clients == at) row(name, clients, lines++, ratio, other, op, goal[1], goal[2])
        else row(name, clients, lines++, ratio, other, "", "", "")
    }
    if (!lines) {
        ratio = clients && name != "select" ? median_ratio(name, "select", clients) : ""
        row(name, clients, 0, ratio, ratio == "" ? "" : "select", "", "", "")
    }
}

END {
    for (i = 1; i <= abouts; i++) print about[i] ": " value[about[i]]
    printf "\n| %-15s | %7s | %9s | %6s | %6s | %6s | %7s | %-15s | %-8s | %-3s |\n", \
        "variant", "clients", "a second", "client", "server", "writer", "ratio", "to", "target", "met"
    print "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- | --- |"
    printf "{" >json
    for (i = 1; i <= abouts; i++) printf "\"%s\": %s, ", about[i], quoted(value[about[i]]) >json
    printf "\"rows\": [" >json
    for (i = 1; i <= variants; i++) {
        count = split(points[order[i]], clients_of, " ")
        for (k = 1; k <= count; k++) rows(order[i], clients_of[k] + 0)
    }
    printf "\n]" >json
    if (("verify", 8) in rounds) print_shares()
    print "}" >json
}
