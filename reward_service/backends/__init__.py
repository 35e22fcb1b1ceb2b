"""The engines that compute a model, behind one small interface."""
