"""A web demo by Gradio: ``pip install gradio``, then ``python examples/gradio_app.py``."""

import gradio
import numpy as np

from fusematte import Matter
from fusematte.engine.compositing.backgrounds import open_background
from fusematte.engine.compositing.stills import compose_picture

matter = Matter()


def cut(picture: np.ndarray, background: str) -> np.ndarray:
    return compose_picture(picture, matter, open_background(background))


choices = gradio.Dropdown(["transparent", "green", "blur"], label="Background")
app = gradio.Interface(cut, [gradio.Image(), choices], gradio.Image(format="png"))
if __name__ == "__main__":
    app.launch()
