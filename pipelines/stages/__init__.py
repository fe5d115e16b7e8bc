"""One file per stage, all of one form, in pipeline order."""
