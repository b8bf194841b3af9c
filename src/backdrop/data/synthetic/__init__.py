"""Draws a synthetic studio: parametric cars on a turntable, with exact masks.

Tests, demos and the tutorial use it where no real photographs are at hand. A car consists of a few lofted hulls; all
else on it (glass, lamps, lines) is a patch of a hull's surface. Faces are shaded once and painted from far to near, so
the mask is exactly what was painted.

Car frame: meters; x points from the center to the nose, y to the side, z up from the floor. Colors are RGB, 0 to 255.
"""

from backdrop.data.synthetic.cars import STYLES, Car, draw_car, object_name
from backdrop.data.synthetic.scene import render

__all__ = ["STYLES", "Car", "draw_car", "object_name", "render"]
