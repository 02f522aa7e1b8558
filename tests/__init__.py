"""The tests, in folders by kind; ``support`` holds what they share."""
