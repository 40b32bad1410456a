"""Drop-ins: the names, arguments, results and exceptions of Quay's own classes, on a gateway."""
