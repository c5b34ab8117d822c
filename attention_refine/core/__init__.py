"""What everything stands on: names, options, files and checks. It imports nothing of the package outside this folder."""
