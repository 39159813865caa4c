"""Jobs over files and the lake that need several packages. Run from the command line, never beside the gateway's loop."""
