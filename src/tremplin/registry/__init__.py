"""What a model is: manifest, version, artefacts, passport."""
