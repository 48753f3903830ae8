"""From a frame to its result, shared by files, cameras and the page."""
