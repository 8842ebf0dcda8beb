"""The commands of the command line, each a plain function; `etude.cli` puts them together."""
