"""Everything that opens or writes media: readers, writers, containers, picture sequences."""
