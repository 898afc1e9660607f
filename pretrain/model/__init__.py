"""The encoder and the decoder: build them, load them, save them."""

from pretrain.model.encoder_files import load_decoder, load_encoder, save_encoder
from pretrain.model.map_decoder import MapDecoder, MapDecoderConfig
from pretrain.model.video_swin import BatchPart, EncoderConfig, VideoSwin, build_encoder

__all__ = [
    "BatchPart",
    "EncoderConfig",
    "MapDecoder",
    "MapDecoderConfig",
    "VideoSwin",
    "build_encoder",
    "load_decoder",
    "load_encoder",
    "save_encoder",
]
