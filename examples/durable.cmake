edge_example(durable_counter DEPS edge::durable)
edge_example(durable_flight_seating DEPS edge::durable)
