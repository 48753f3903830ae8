"""Live matting of cameras and streams: sessions, latency budget, outputs."""
