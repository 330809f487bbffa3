"""Where it runs: the command line, the stage graph, the Ray session, doctor, report. May import every other folder."""
