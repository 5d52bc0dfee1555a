"""How good the images of sub-networks and engines are: distances to their references and to data, with their intervals."""
