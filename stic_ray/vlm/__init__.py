"""The only knowledge of model families: chat template, processor, image tokens, LoRA targets, sharding, export.

Everything else handles a checkpoint directory, conversations (`Turn`s with the image before the first user text) and
tensors.
"""

from stic_ray.vlm.attention import Segment as Segment
from stic_ray.vlm.examples import Example as Example
from stic_ray.vlm.examples import Piece as Piece
from stic_ray.vlm.examples import encode_example as encode_example
from stic_ray.vlm.examples import encode_group as encode_group
from stic_ray.vlm.examples import end_token_ids as end_token_ids
from stic_ray.vlm.export import save_checkpoint as save_checkpoint
from stic_ray.vlm.families import add_lora as add_lora
from stic_ray.vlm.families import load_adapter as load_adapter
from stic_ray.vlm.families import projector_parameters as projector_parameters
from stic_ray.vlm.families import sharding_units as sharding_units
from stic_ray.vlm.families import trained_in_float32 as trained_in_float32
from stic_ray.vlm.families import unfreeze_language_model as unfreeze_language_model
from stic_ray.vlm.loading import DTYPES as DTYPES
from stic_ray.vlm.loading import load_generation_config as load_generation_config
from stic_ray.vlm.loading import load_model as load_model
from stic_ray.vlm.loading import load_processor as load_processor
from stic_ray.vlm.prompts import PromptBatch as PromptBatch
from stic_ray.vlm.prompts import beginning_length as beginning_length
from stic_ray.vlm.prompts import encode_prompts as encode_prompts
from stic_ray.vlm.prompts import noised_pixels as noised_pixels
from stic_ray.vlm.prompts import read_beginnings as read_beginnings
from stic_ray.vlm.prompts import render as render
from stic_ray.vlm.prompts import render_prompt as render_prompt
from stic_ray.vlm.prompts import tokenize as tokenize
from stic_ray.vlm.rows import Group as Group
from stic_ray.vlm.rows import Row as Row
from stic_ray.vlm.rows import fill_rows as fill_rows
from stic_ray.vlm.rows import pack as pack
from stic_ray.vlm.rows import shape_of as shape_of
from stic_ray.vlm.scorer import AnswerScorer as AnswerScorer
from stic_ray.vlm.scorer import image_attention as image_attention
from stic_ray.vlm.sizes import Sizes as Sizes
from stic_ray.vlm.sizes import read_sizes as read_sizes
from stic_ray.vlm.tower import VisionTower as VisionTower
from stic_ray.vlm.tower import load_tower as load_tower
