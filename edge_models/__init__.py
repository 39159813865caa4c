"""Edge models score streams. `base` says what a model is; each further file is one model and the `kind:` in YAML."""
