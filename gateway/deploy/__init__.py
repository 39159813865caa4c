"""What may be asked of a running gateway from afar: the shadow's wishes, judged like the YAML file, carried out and reported."""
