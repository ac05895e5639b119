"""Files for a type checker: nothing here is run but `test_typing`."""
