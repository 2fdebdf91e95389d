"""What a device twin is (pure), and how device protocols plug in."""
