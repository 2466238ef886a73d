# apikeys: PGXS build. The version stands in apikeys.control alone.

EXTENSION = apikeys
EXTVERSION = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" apikeys.control)

MODULE_big = apikeys
# Lowest layer first; src/apikeys.c has the map.
OBJS = \
	src/keytext.o \
	src/limittext.o \
	src/ring.o \
	src/pattern.o \
	src/addressset.o \
	src/requestid.o \
	src/clock.o \
	src/secret.o \
	src/waitpoint.o \
	src/meter.o \
	src/address.o \
	src/queue.o \
	src/limits.o \
	src/digest.o \
	src/catalog.o \
	src/rules.o \
	src/block.o \
	src/lookup.o \
	src/verdict.o \
	src/request.o \
	src/policy.o \
	src/guard.o \
	src/key.o \
	src/authenticate.o \
	src/redact.o \
	src/adjustment.o \
	src/usage.o \
	src/verify.o \
	src/stats.o \
	src/notice.o \
	src/rows.o \
	src/batch.o \
	src/maintain.o \
	src/writer.o \
	src/launcher.o \
	src/apikeys.o

# The parts of the install script, in the order in which they are joined.
SQL_PARTS = \
	src/sql/schema.sql \
	src/sql/limits.sql \
	src/sql/digest.sql \
	src/sql/tables.sql \
	src/sql/guard.sql \
	src/sql/rules.sql \
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

# For tests of races: src/waitpoint.h.
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

$(OBJS): $(wildcard src/*.h)

apikeys--$(EXTVERSION).sql: $(SQL_PARTS) apikeys.control Makefile
	{ printf '%s\n' '\echo Use "CREATE EXTENSION apikeys" to load this file. \quit'; cat $(SQL_PARTS); } > $@

# The scripts ask for the lists above.
print-%:
	@echo $($*)
