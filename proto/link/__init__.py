"""The link that carries frames between one edge and the cloud over any MQTT broker."""
