"""Draw a synthetic studio: parametric cars on a turntable, with exact masks.

The pictures stand in for a real data set (the layout of Carvana's photographs) wherever one is not at hand: in tests,
in demos, in the tutorial. A car is a handful of lofted hulls; everything else on it (glass, lamps, lines) is a patch of
a hull's own surface. Faces are shaded once and painted from far to near, so a mask is what was painted.

Car frame: meters; x points from the center to the nose, y to the side, z up from the floor. Colors are RGB, 0 to 255.
"""

from backdrop.data.synthetic.cars import STYLES, Car, draw_car, object_name
from backdrop.data.synthetic.scene import render

__all__ = ["STYLES", "Car", "draw_car", "object_name", "render"]
