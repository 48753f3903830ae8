"""The streaming runtime: decode, matte, refine, composite, encode.  Never imports torch."""
