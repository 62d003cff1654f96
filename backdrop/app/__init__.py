"""The command line, the local page, exports, ONNX: on top of the library; no stage depends on them."""
