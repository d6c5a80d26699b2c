"""What a container costs, against the host and against every other runtime: `poc bench`.

::

    settings ──▶ runner ──▶ suite.measure(runtime) ──▶ results (JSON) ──▶ report (tables, sentences)
                    │              │
                    │              └─ run, create, start, exec, pause, destroy …  (poc.bench.runtimes)
                    └─ rounds: every runtime once in each, in an order of its own

`poc.bench.runner.Bench` does a run; the command line adds the progress bar and the tables. Everything is measured
through the programs a user would call, poc too, so that each pays for its own start.
"""
