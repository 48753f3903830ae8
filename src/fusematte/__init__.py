"""FuseMatte: real-time human video matting."""
