-- Holds a new connection until a leader is known and up, for 2 s at most. haproxy.cfg rejects the connection if
-- there is none then. A rule that waits by itself looks again only when its wait ends.
core.register_action("wait_for_leader", { "tcp-req" }, function(txn)
    for _ = 1, 100 do
        -- The old process after a reload counts no server as up.
        if txn:get_var("proc.leader") and (txn.f:nbsrv("ui") > 0 or txn.sf:stopping() == "1") then return end
        core.msleep(20)
    end
end)
