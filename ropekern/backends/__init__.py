"""One module a backend, each with the one function `rope`; ops picks one by name and imports it then."""
