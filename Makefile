# apikeys: PGXS build. The version stands in apikeys.control alone.

EXTENSION = apikeys
EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" apikeys.control)

MODULE_big = apikeys
# Lowest layer first; src/apikeys.c has the map.
OBJS = \
	src/pure/keytext.o \
	src/pure/limittext.o \
	src/pure/ring.o \
	src/pure/pattern.o \
	src/pure/addressset.o \
	src/pure/requestid.o \
	src/pure/clock.o \
	src/pure/secret.o \
	src/engine/waitpoint.o \
	src/engine/meter.o \
	src/engine/address.o \
	src/engine/queue.o \
	src/types/limits.o \
	src/types/digest.o \
	src/tables/catalog.o \
	src/tables/rulecache.o \
	src/request/block.o \
	src/request/lookup.o \
	src/types/verdict.o \
	src/request/request.o \
	src/request/policy.o \
	src/request/guard.o \
	src/manage/key.o \
	src/request/authenticate.o \
	src/manage/redact.o \
	src/request/adjustment.o \
	src/request/usage.o \
	src/request/verify.o \
	src/engine/engine.o \
	src/writer/notice.o \
	src/tables/rows.o \
	src/writer/batch.o \
	src/writer/maintain.o \
	src/writer/writer.o \
	src/writer/launcher.o \
	src/apikeys.o

# The parts of the install script, in the order in which they are joined.
SQL_PARTS = \
	src/sql/schema.sql \
	src/sql/limits.sql \
	src/sql/digest.sql \
	src/sql/tables.sql \
	src/sql/guard.sql \
	src/sql/rulecache.sql \
	src/sql/verdict.sql \
	src/sql/audit.sql \
	src/sql/account.sql \
	src/sql/notice.sql \
	src/sql/key.sql \
	src/sql/plan.sql \
	src/sql/upgrade_request.sql \
	src/sql/erasure.sql \
	src/sql/block.sql \
	src/sql/authenticate.sql \
	src/sql/verify.sql \
	src/sql/stats.sql \
	src/sql/usage.sql \
	src/sql/adjustment.sql \
	src/sql/analytics.sql \
	src/sql/comments.sql \
	src/sql/privileges.sql

DATA_built = apikeys--$(EXTVERSION).sql
EXTRA_CLEAN = apikeys--*.sql

PG_CPPFLAGS = -Isrc
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
	guard \
	account \
	key \
	plan \
	upgrade_request \
	notice \
	erasure \
	analytics \
	audit \
	authenticate \
	verify \
	block \
	privileges \
	usage \
	adjustment
REGRESS_OPTS = --inputdir=. --load-extension=apikeys
# Those that need shared_preload_libraries = 'apikeys'; the others must pass without it too.
REGRESS_PRELOADED = verify block usage adjustment
REGRESS_UNLOADED = $(filter-out $(REGRESS_PRELOADED),$(REGRESS))

# Tests with several sessions, in test/specs.
ISOLATION = \
	guard \
	firstuse \
	block \
	plan \
	product \
	upgrade_request
ISOLATION_OPTS = --inputdir=test --load-extension=apikeys

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
# No bitcode: nothing here is small enough to be worth inlining into a plan, and building it needs clang.
override with_llvm := no
include $(PGXS)

$(OBJS): $(wildcard src/*.h src/*/*.h)

apikeys--$(EXTVERSION).sql: $(SQL_PARTS) apikeys.control Makefile
	{ printf '%s\n' '\echo Use "CREATE EXTENSION apikeys" to load this file. \quit'; cat $(SQL_PARTS); } > $@

# The scripts ask for the lists above.
print-%:
	@echo $($*)
