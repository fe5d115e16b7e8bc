"""What a machine, a store and a config lack, found before a run does: `nightrank doctor`."""
