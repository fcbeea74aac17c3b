//! The image stream: CRIU's pipes and the layer, cut into verified, compressed chunks.
