"""The image and docker-compose.yml, with Docker."""
