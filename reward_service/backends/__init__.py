"""What computes: one model behind one small seam."""
