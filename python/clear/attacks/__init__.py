"""Red-team tools: implant triggerless backdoors into one's own data, to see whether one's own pipeline finds them.

`flip_labels` needs no network. `feature_collision`, `convex_polytope` and `bullseye_polytope` move images in feature
space, `gradient_matching` in the space of training gradients. These four change pixels by at most epsilon, keep the
labels as they are (clean-label attacks) and return `Crafted`, with the geometry they reached. Crafted on several models
at once, poisons carry over to a network that was not at hand. What all of them take by keyword is `SearchOptions`.
"""

from __future__ import annotations

from clear.attacks._crafting import Crafted, Geometry, SearchOptions
from clear.attacks.collisions import bullseye_polytope, convex_polytope, feature_collision
from clear.attacks.gradients import gradient_matching
from clear.attacks.labels import flip_labels

__all__ = [
    "Collision",
    "Crafted",
    "Geometry",
    "SearchOptions",
    "bullseye_polytope",
    "convex_polytope",
    "feature_collision",
    "flip_labels",
    "gradient_matching",
]

Collision = Crafted
"""The result under the name that it had when feature collision was the only attack."""
