# shellcheck shell=bash disable=SC2016  # the commands are evaluated later
# What bench/run measures, in the order in which the variants take turns, and what each is compared with.
#
# variant NAME CLIENTS UNITS COMMAND COMPARED
#   CLIENTS   all: each of $BENCH_CLIENTS; numbers: these, beside all or alone; -: it is no rate, COMMAND prints one figure
#   UNITS     units in a transaction (keys, statements), by which its rate is multiplied; for a figure its unit
#   COMMAND   a function of bench/run with its arguments
#   COMPARED  words OTHER[@CLIENTS]OP TARGET[,STRETCH]: the ratio of the rates at 8 clients (or CLIENTS), and what it should be;
#             a word without OTHER compares the figure itself

stage main      # the database with all
variant select          all      1   'pgbench_run -S' ''
variant one             all      1   'script one' ''
variant verify          all      1   'script verify' 'select>=1.0,1.1 one>=0.5,0.9 verify_unlogged>=0.85 redis>=2 sql_async>=5'
variant verify_lean     all      1   'script verify_lean' 'select'
variant verify_scalar   all      1   'script verify_scalar' 'verify'
variant verify_unlogged all      1   'unlogged script verify' 'select'
variant hot             all      1   'hot script verify' 'verify>=0.95 sql_hot_async>=15'
variant hot_scalar      8        1   'hot script verify_scalar' 'verify_scalar'
variant hot_unlogged    8        1   'unlogged hot script verify' 'verify_unlogged'
variant complete        all      2   'script complete' 'select>=0.9'
variant denied          all      1   'script denied' 'verify>=1.0'
variant unknown         all      1   'script unknown' 'verify>=1.0'
variant unissued        all      1   'script unissued' 'verify>=1.0'
variant malformed       all      1   'script malformed' 'verify>=1.0'
variant authenticate    all      1   'script authenticate' 'select'
variant query           8        1   'script query' ''
variant query_alone     8        1   'script query_alone' ''
variant acting          8        1   'script acting -U bench_application' 'query>=0.7 query_alone verify'
variant many            all      100 'script many' 'verify>=6 redis_16>=3'
variant many_lean       all      100 'script many_lean' 'verify'
variant verify_sync     'all 32' 1   'synchronous script verify' 'insert@32>=3'
variant hot_sync        8        1   'synchronous hot script verify' 'verify_sync'
variant insert          'all 32' 1   'script insert' ''
variant create          all      1   'script create' ''
variant sql             all      1   'script peer' ''
variant sql_async       all      1   'uncommitted script peer' ''
variant sql_hot         all      1   'hot script peer' ''
variant sql_hot_async   all      1   'uncommitted hot script peer' ''
variant redis           all      1   'redis_run 1 "$active"' ''
variant redis_16        all      1   'redis_run 16 "$active"' ''
variant redis_hot       all      1   'redis_run 1 1' ''
variant call            -        us  'figure "SELECT bench.call_time(array_agg(key ORDER BY random())) FROM bench.issued, generate_series(1, 2)"' '<=2.5'
variant call_hot        -        us  'figure "SELECT bench.call_time(array_fill(min(key), ARRAY[20000])) FROM bench.issued"' '<=1.0'
variant cold            -        ms  'figure "SELECT bench.cold_time(false)"' '<=1'
variant cold_fine       -        ms  'figure "SELECT bench.cold_time(true)"' ''
variant policy          -        x   'figure "SELECT bench.policy_cost()"' '<=1.05'
variant meter           -        B   "figure \"SELECT pg_size_bytes(current_setting('apikeys.meter_memory')) / meters_size FROM apikeys.stats()\"" '<=2560'

stage growth    # a small database and a large one
variant small           all      1   'in_database small "$active" script verify' ''
variant large           all      1   'in_database large "$large" script verify' 'small>=0.85'
