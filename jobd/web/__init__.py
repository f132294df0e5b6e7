"""The REST door: decodes requests, asks the core, encodes replies. No rule of the product lives here."""
