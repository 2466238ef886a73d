# apikeys: PGXS build, in the tree or out of it (make -f PATH/Makefile in a folder of its own).
# The version stands in apikeys.control alone.

EXTENSION = apikeys
EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(srcdir)/apikeys.control)

MODULE_big = apikeys
# Lowest layer first; src/apikeys.c has the map.
OBJS = \
	src/pure/keytext.o \
	src/pure/hashrule.o \
	src/pure/nametext.o \
	src/pure/limittext.o \
	src/pure/ring.o \
	src/pure/pattern.o \
	src/pure/addressset.o \
	src/pure/forwarded.o \
	src/pure/requestid.o \
	src/pure/clock.o \
	src/pure/bucket.o \
	src/pure/secret.o \
	src/engine/waitpoint.o \
	src/engine/wait.o \
	src/engine/meter.o \
	src/engine/meterpool.o \
	src/engine/meterload.o \
	src/engine/address.o \
	src/engine/queue.o \
	src/engine/directory.o \
	src/types/limits.o \
	src/types/digest.o \
	src/tables/bypass.o \
	src/tables/catalog.o \
	src/tables/refuse.o \
	src/tables/rulecache.o \
	src/request/identity.o \
	src/request/reach.o \
	src/request/networks.o \
	src/request/client.o \
	src/request/block.o \
	src/request/hint.o \
	src/request/lookup.o \
	src/request/productlist.o \
	src/types/verdict.o \
	src/types/response.o \
	src/request/request.o \
	src/request/policy.o \
	src/request/guard.o \
	src/manage/key.o \
	src/manage/import.o \
	src/request/authenticate.o \
	src/manage/drop.o \
	src/manage/redact.o \
	src/manage/text.o \
	src/request/adjustment.o \
	src/request/usage.o \
	src/request/metering.o \
	src/request/limitstatus.o \
	src/request/limitsused.o \
	src/request/call.o \
	src/request/record.o \
	src/request/verify.o \
	src/request/complete.o \
	src/engine/engine.o \
	src/tables/rows.o \
	src/writer/logrow.o \
	src/writer/tally.o \
	src/writer/partition.o \
	src/writer/batch.o \
	src/writer/maintain.o \
	src/writer/notice.o \
	src/writer/step.o \
	src/writer/duties.o \
	src/writer/writer.o \
	src/writer/launcher.o \
	src/apikeys.o

# The parts of the install script, in the order in which they are joined.
SQL_PARTS = \
	src/sql/schema.sql \
	src/sql/reach.sql \
	src/sql/limits.sql \
	src/sql/digest.sql \
	src/sql/tables.sql \
	src/sql/text.sql \
	src/sql/guard.sql \
	src/sql/rulecache.sql \
	src/sql/verdict.sql \
	src/sql/response.sql \
	src/sql/audit.sql \
	src/sql/account.sql \
	src/sql/notice.sql \
	src/sql/outbox.sql \
	src/sql/keylist.sql \
	src/sql/find.sql \
	src/sql/planrule.sql \
	src/sql/key.sql \
	src/sql/archive.sql \
	src/sql/rotation.sql \
	src/sql/import.sql \
	src/sql/leak.sql \
	src/sql/plan.sql \
	src/sql/change.sql \
	src/sql/upgrade_request.sql \
	src/sql/erasure.sql \
	src/sql/block.sql \
	src/sql/authenticate.sql \
	src/sql/verify.sql \
	src/sql/stats.sql \
	src/sql/usage.sql \
	src/sql/adjustment.sql \
	src/sql/analytics.sql \
	src/sql/logpage.sql \
	src/sql/identity.sql \
	src/sql/comments.sql \
	src/sql/privileges.sql

DATA_built = apikeys--$(EXTVERSION).sql
# From one release to the next.
DATA = $(patsubst $(srcdir)/%,%,$(wildcard $(srcdir)/src/sql/apikeys--*--*.sql))
# Of .build, what make and lint put there; the rest of it belongs to the scripts.
EXTRA_CLEAN = apikeys--*.sql .build/unit .build/fuzz .build/tools .build/lint

PG_CPPFLAGS = -I$(srcdir)/src
SHLIB_LINK = -lsodium

# For tests of races: src/engine/waitpoint.h.
ifdef WAIT_POINTS
PG_CPPFLAGS += -DAPIKEYS_WAIT_POINTS
endif

REGRESS = \
	schema \
	limits \
	digest \
	tables \
	text \
	bounds \
	guard \
	account \
	key \
	leak \
	plan \
	change \
	archive \
	keylist \
	find \
	upgrade_request \
	notice \
	outbox \
	owner_limits \
	erasure \
	analytics \
	logpage \
	audit \
	authenticate \
	response \
	verify \
	block \
	privileges \
	identity \
	usage \
	adjustment \
	import
REGRESS_OPTS = --load-extension=apikeys
# Those that need shared_preload_libraries = 'apikeys'; the others must pass without it too.
REGRESS_PRELOADED = bounds verify block usage adjustment import owner_limits
REGRESS_UNLOADED = $(filter-out $(REGRESS_PRELOADED),$(REGRESS))

# Tests with several sessions, in test/specs.
ISOLATION = \
	guard \
	firstuse \
	block \
	plan \
	product \
	upgrade_request \
	outbox
ISOLATION_OPTS = --inputdir=$(srcdir)/test --load-extension=apikeys

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
# No bitcode: nothing here is small enough to be worth inlining into a plan, and building it needs clang.
override with_llvm := no
include $(PGXS)

# Out of the tree, what is built is never taken from the tree, where it may be built for another server.
ifneq ($(srcdir),.)
srcdir := $(srcdir)
override VPATH =
vpath %.c $(srcdir)
vpath src/sql/%.sql $(srcdir)
vpath %.control $(srcdir)
endif

OBJ_FOLDERS = $(sort $(dir $(OBJS)))
$(OBJS): $(wildcard $(srcdir)/src/*.h $(srcdir)/src/*/*.h) | $(OBJ_FOLDERS)
$(OBJ_FOLDERS):
	mkdir -p $@

# What the library exports, where the linker can be told.
exports = $(srcdir)/src/exports.map
ifeq ($(PORTNAME),linux)
SHLIB_LINK += -Wl,--version-script=$(exports)
$(shlib): $(exports)
endif

apikeys--$(EXTVERSION).sql: $(SQL_PARTS) $(srcdir)/apikeys.control $(srcdir)/Makefile
	{ printf '%s\n' '\echo Use "CREATE EXTENSION apikeys" to load this file. \quit'; cat $(filter %.sql,$^); } > $@

# README.md names the others as docs/NAME.md, so the folder keeps its shape, which DOCS would not.
doc_folder = $(DESTDIR)$(docdir)/$(docmoduledir)/apikeys
install: install-docs
install-docs:
	$(MKDIR_P) '$(doc_folder)/docs'
	$(INSTALL_DATA) $(srcdir)/README.md $(srcdir)/CHANGELOG.md $(srcdir)/LICENSE '$(doc_folder)/'
	$(INSTALL_DATA) $(wildcard $(srcdir)/docs/*.md) '$(doc_folder)/docs/'
uninstall: uninstall-docs
uninstall-docs:
	rm -rf '$(doc_folder)'
.PHONY: install-docs uninstall-docs

# installcheck names the settings that the running server lacks, instead of failing for want of them.
installcheck: installcheck-settings
installcheck-settings:
	@missing=$$('$(bindir)/psql' -X -A -t -d postgres -c "SELECT setting FROM (VALUES \
	    ('$(filter $(REGRESS_PRELOADED),$(REGRESS))$(ISOLATION)' <> '' AND current_setting('shared_preload_libraries') !~ 'apikeys', \
	        'shared_preload_libraries = ''apikeys'''), \
	    ('$(filter firstuse,$(ISOLATION))' <> '' AND current_setting('max_prepared_transactions') = '0', \
	        'max_prepared_transactions = 10')) AS v(missing, setting) WHERE missing") && \
	if [ -n "$$missing" ]; then \
	    printf '%s\n' 'The tests need this in postgresql.conf, and a restart:' "$$missing" \
	        'Without it, run: make installcheck ISOLATION= REGRESS="$(REGRESS_UNLOADED)"' >&2; \
	    exit 1; \
	fi
.PHONY: installcheck-settings

# The scripts ask for the lists above.
print-%:
	@echo $($*)
