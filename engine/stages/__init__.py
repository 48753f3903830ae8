"""Matting, smoothing and compositing as stages that file jobs and live sessions share."""
