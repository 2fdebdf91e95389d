"""The device room: twins of this node's devices, MQTT clients and mappers on one side, the store and the link on the other."""
