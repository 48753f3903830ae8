"""Affine transforms of pictures.  Needs no torch."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""[H, W, 3] RGB or [H, W], 0..255."""
Matrix = NDArray[np.float64]
"""[3, 3]: maps points (x, y, 1) of one picture to another; pixel centres are at halves."""


def affine(linear: NDArray[np.float64], shift: NDArray[np.float64]) -> Matrix:
    """The matrix of x -> linear x + shift."""
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, shift
    return matrix


def warp(picture: Picture, matrix: Matrix, height: int, width: int, border: int) -> Picture:
    """Applies a matrix; ``border`` is OpenCV's mode beyond the picture's edges.

    A picture that becomes smaller is area-averaged first, as in a camera.
    """
    shrink = math.sqrt(abs(float(np.linalg.det(matrix[:2, :2])))) * 1.3
    if shrink < 1:
        rows, columns = (max(1, round(side * shrink)) for side in picture.shape[:2])
        scale = np.diag([picture.shape[1] / columns, picture.shape[0] / rows, 1.0])
        picture = np.asarray(
            cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8
        )
        matrix = matrix @ scale
    return resample(picture, matrix, height, width, border)


def resample(picture: Picture, matrix: Matrix, height: int, width: int, border: int) -> Picture:
    """Applies a matrix by bilinear interpolation alone, for what does not become smaller."""
    shifted = matrix[:2].copy()  # in OpenCV pixel centres are at integers
    shifted[:, 2] += matrix[:2, :2] @ (0.5, 0.5) - 0.5
    warped = cv2.warpAffine(
        picture, shifted, (width, height), flags=cv2.INTER_LINEAR, borderMode=border
    )
    return np.asarray(warped, np.uint8)
