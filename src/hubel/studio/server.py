"""The studio's server: the page's files, sample images, and a router for each view."""

from __future__ import annotations

import io
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from hubel.errors import HubelError, UsageError
from hubel.report.style import style_sheet
from hubel.studio import course, network, runs, trainings
from hubel.studio.guard import Guard, Places

PAGE = Path(str(files("hubel.studio").joinpath("static")))


def app(*folders: str | Path, token: str, code: str | None = None) -> FastAPI:
    """Make the studio of some folders; without the token, nothing can be changed or asked of a model."""
    made = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    made.state.places, made.state.trainings = Places(*folders, code=code), trainings.Trainings()
    made.add_middleware(Guard, token=token)
    made.add_exception_handler(HubelError, _explained)
    made.add_exception_handler(RequestValidationError, _explained)
    made.add_api_route("/", lambda: FileResponse(PAGE / "index.html"))
    made.add_api_route("/report.css", lambda: Response(style_sheet(charts=True), media_type="text/css"))
    made.add_api_route("/api/samples/{name}.png", sample)
    made.include_router(runs.router)
    made.include_router(trainings.router)
    made.include_router(course.router)
    made.include_router(network.router(made.state.places))
    made.mount("/static", StaticFiles(directory=PAGE))
    return made


def sample(name: str) -> Response:
    """An image to try things on: china, flower or digit, as PNG."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits, load_sample_image

    if name == "digit":
        image = Image.fromarray(np.uint8(load_digits().images[3] * 255 / 16))
    elif name in ("china", "flower"):
        image = Image.fromarray(load_sample_image(f"{name}.jpg"))
        image.thumbnail((256, 256))
    else:
        return JSONResponse({"error": f"There is no sample {name!r}: choose china, flower or digit."}, 404)
    packed = io.BytesIO()
    image.save(packed, "PNG")
    return Response(packed.getvalue(), media_type="image/png")


async def _explained(_: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        error = UsageError(f"The studio's page does not ask so: {error.errors()[0]['msg']}.")
    return JSONResponse({"error": str(error)}, 400)
