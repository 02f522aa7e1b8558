"""Shoppers simulated by Locust, and a verdict on lost and doubled items: a load for any cartsvc, ``make load``."""
