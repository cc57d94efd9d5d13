//! Frames as decoders give them, in every format.
