"""The command line: flags out of settings, words out of reports."""
