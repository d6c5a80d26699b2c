"""One module per verb: its table of options (`COMMAND`), and `run(args) -> exit code`."""
