SELECT * FROM apikeys.verify('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', endpoint => '/v1/items');
