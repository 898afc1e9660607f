"""The encoder: build it, load it, save it."""

from pretrain.model.encoder_files import load_encoder, save_encoder
from pretrain.model.video_swin import BatchPart, EncoderConfig, VideoSwin, build_encoder

__all__ = ["BatchPart", "EncoderConfig", "VideoSwin", "build_encoder", "load_encoder", "save_encoder"]
