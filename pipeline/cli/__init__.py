"""The command line, verb by verb: arguments in, text or a JSON record out."""
