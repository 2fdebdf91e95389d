"""From an HTTP request to the verb on objects that it means, and back."""
