-- Chooses the node for each new connection, and holds the connection until there is one, for 2 s at most.
-- HAProxy's own rules would look again only when a wait ends.

-- The node that users are on. They all stay there while it is up, also if another one answers 200 as well.
local current

core.register_action("find_leader", { "tcp-req" }, function(txn)
    local servers = core.backends.role.servers
    local function is_up(name) return name and txn.sf:srv_is_up("role/" .. name) == "1" end
    for _ = 1, 100 do
        if not is_up(current) then
            local leader = txn:get_var("proc.leader")
            for name, server in pairs(servers) do
                -- A server that was not checked yet is up, too. The last one that passed may have lost a check since.
                local is_known = name == leader or server:get_stats().check_status:find("L4OK")
                if is_up(name) and is_known then current = name end
            end
        end
        -- The old process after a reload counts no server as up.
        if is_up(current) or current and txn.sf:stopping() == "1" then return txn:set_var("txn.node", current) end
        core.msleep(20)
    end
end)
