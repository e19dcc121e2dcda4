"""Three small worlds with exact ground truth, each standing for a family of the paper's data.

`mini_chart` for ChartQA (read several values, compute), `mini_scene` for A-OKVQA and AI2D (multiple choice about
what is where), `mini_form` for DocVQA and TextVQA (read text and digits, extract or total).
"""

from rationale.worlds import chart, form, scene
from rationale.worlds.template import WAYS, Solution, Template, World, split_of, write_rationale

WORLDS = {"mini_chart": chart, "mini_scene": scene, "mini_form": form}

__all__ = ["WAYS", "WORLDS", "Solution", "Template", "World", "split_of", "write_rationale"]
