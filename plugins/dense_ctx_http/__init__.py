"""What servers of this library are made of: a guard, errors as JSON, a worker, an address. It registers no part."""
